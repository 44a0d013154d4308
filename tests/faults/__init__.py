"""Faults on purpose: kills, changed bytes, full disks, missing permissions and servers that fail, each case by a seed.

`make test-faults`, or `python -m tests.faults`; `python -m tests.faults --case ID` runs one case alone.

    inject.c      kills the process, or lets a call fail, at the n-th system call that reads or changes the project
    commands.py   starts commands by support/fork_server.py, with a fault in one, until all they started has ended
    example.py    a project with a run of each stage's kind, as it was before each stage, and what must come out of it
    kills.py, corruption.py, system.py, servers.py    the cases
    verdict.py    identical, refused or FAULT: decided by what is left and what was printed
"""
