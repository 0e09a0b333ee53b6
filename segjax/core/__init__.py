"""What no paper and no net is part of: devices, random keys, files, processes, optimisers."""
