"""The asset graph and nothing else: one module a layer, checks beside their assets."""
