"""The model owner takes updates in: `mpu aggregate`."""
