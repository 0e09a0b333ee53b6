"""Parts without a paper and without a net: devices, random keys, files, processes, optimisers."""
