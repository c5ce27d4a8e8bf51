"""Image benchmarks: data sets into stores, low-resolution images, scores."""
