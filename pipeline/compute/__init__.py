"""Device, processes that compute together, and resizing of maps. Torch only."""
