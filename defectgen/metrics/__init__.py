"""Scores of generated images: tensors in, numbers out; pretrained networks come as arguments."""
