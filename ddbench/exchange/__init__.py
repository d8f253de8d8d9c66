"""Synsets in the formats of others: what the field published comes in, pictures and arrays go out."""
