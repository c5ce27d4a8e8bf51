"""The store: samples and their scalars in a Zarr v3 group that `xarray.open_zarr` opens.

Only this package knows Zarr and the schema.
"""

from skild_phys.store.dataset import store_dataset, write_group, write_lattices
from skild_phys.store.identity import shared
from skild_phys.store.lattices import (
    Lattices,
    MemoryLattices,
    MemoryWriter,
    Source,
    open_lattices,
    own_store,
)
from skild_phys.store.layout import APPEND_TOTAL, Plan, sides
from skild_phys.store.reader import ROOT, LatticeStore, is_store, open_store
from skild_phys.store.writer import (
    Region,
    StoreWriter,
    create_store,
    end_append,
    read_timing,
    streams_at,
    write_timing,
)

__all__ = [
    "APPEND_TOTAL",
    "ROOT",
    "LatticeStore",
    "Lattices",
    "MemoryLattices",
    "MemoryWriter",
    "Plan",
    "Region",
    "Source",
    "StoreWriter",
    "create_store",
    "end_append",
    "is_store",
    "open_lattices",
    "open_store",
    "own_store",
    "read_timing",
    "shared",
    "sides",
    "store_dataset",
    "streams_at",
    "write_group",
    "write_lattices",
    "write_timing",
]
