"""Architecture families as data, and the layouts that transforms and noise are computed on."""
