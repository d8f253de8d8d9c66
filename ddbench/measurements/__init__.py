"""What is measured on a trained student beside its accuracy."""
