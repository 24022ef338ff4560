"""VILA-U's parts as plain PyTorch modules: the peer that vila-u's speed is measured against.

Written for timing. Weights are random; shapes, operations and their order are the model's.
"""
