"""What `keras_norm.models.examine` reads, measures, finds and reports."""
