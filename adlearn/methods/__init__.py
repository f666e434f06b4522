"""The methods the notebooks build, one module per family: `from adlearn.methods.memory_bank import PatchCore`.

Every other file in this folder is generated from the notebook of its name (`make export`); edit the notebook.
"""
