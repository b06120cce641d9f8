"""What does this machine give? Cores, devices, the cache's folder, progress, settings files, optional packages."""
