"""What methods share: batches, features, masks, samplers."""
