"""What ddbench's intervals ask ``scipy``, for a machine without it. The real one is taken where it is."""
