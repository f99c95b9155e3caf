"""What a model is worth: scores, reliability, coverage, forecasts."""
