"""The VMM's own CPU on the embedded machine: a user process on a second interpreter CPU."""
