"""Finite-size scaling: crossings, exponents and data collapse, from stores of several sizes.

Each size is reweighted to the temperatures around those it was simulated at (`reweighting`).
xi / L and U4 of two sizes cross near Tc. Exponents are read off where U4 has one and the same
value for every size, which removes Tc, and most of its uncertainty, from them:

    dU4/dT, d(xi/L)/dT ~ L^(1/nu);    chi, S(2 pi j / L) ~ L^(2 - eta) = L^(gamma/nu);
    |m| ~ L^(-beta/nu);               C ~ a + b L^(alpha/nu).

(Where xi / L has one value, chi / S(2 pi / L) is a function of L alone, and the two would say the
same.) A collapse fits one function of (T - Tc) L^(1/nu) to the curves of all sizes in a window
around Tc. Every fit has its chi^2, and may have a correction L^-omega. Every error is a jackknife
over bins in time order of each size; sizes are independent.
"""
