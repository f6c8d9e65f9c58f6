"""Commands that a person runs by hand on the results of the pipeline."""

import darkroom as darkroom  # sets the environment variables that TensorFlow and MLflow read on import
