"""Running a trained model: bundles and the predictor."""
