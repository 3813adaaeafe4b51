"""Networks by name, their weights and cards, ensembles of them, and how they run. Import from its modules.

Nothing stands here, for whoever only prepares studies needs cards and no torch: 2.8 s and 700 MB of each CPU actor.
"""
