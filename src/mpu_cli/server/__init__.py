"""The model owner's half, in five packages.

`publishing` (`mpu perturb`) and `aggregation` (`mpu aggregate`) do not import each other. Both use
`lineage` (the records of one model), `transforms` (reparameterizations) and `secrets`. The modules
beside the packages serve several of them: `denoising`, `estimate` and `can_be_loaded`.
"""
