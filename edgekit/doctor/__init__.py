"""Finds what is wrong with a device before it costs somebody an evening: one snapshot is read there, all judging is done here.

    snapshot = examine(address)             # what wanted.py names, read by collect.py on the device
    diagnosis = diagnose(snapshot)          # findings, worst first: pure, so recorded snapshots are tests

A check is a function over a snapshot; checks.py lists them all, docs/doctor.md is written from that list.
"""
