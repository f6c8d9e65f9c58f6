"""The stages of the pipeline, in the order of dvc.yaml; each runs with `python -m stages.<name>`."""

import darkroom as darkroom  # sets environment variables that TensorFlow and MLflow read on import
