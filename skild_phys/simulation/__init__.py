"""Monte Carlo: kernels (arrays in, arrays out) and the loop that runs chains of them."""
