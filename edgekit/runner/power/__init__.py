"""What a board draws, how hot it is and how fast it runs: readings with a unit, an age and where they come from.

Standard library only, Python >= 3.9; nothing here needs root, and what would is named as absent.
"""
