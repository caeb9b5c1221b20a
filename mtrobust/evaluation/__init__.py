"""From a trained model to metrics and predictions: evaluation on labelled splits, prediction, finished run folders."""
