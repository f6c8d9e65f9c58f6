"""The stages of the pipeline, in the order of dvc.yaml; each runs with `python -m stages.<name>`."""

import darkroom as darkroom  # sets the environment that TensorFlow and MLflow read when they are imported
