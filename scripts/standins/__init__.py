"""Devices to try edgekit on where there is no board: light ones (`nspawn`), and a whole virtual Pi (`vpi`).

Both run a Debian tree that `tree` makes of Debian's own packages and keeps under build/standins. Answers and protocols on
them are real; speed, heat and current are not.
"""
