"""The working tree beside the last release: the most important figures, in turn, as ratios.

base      which revision is the base, and its own tree, built in build/ab
worker    one process per tree, which measures a figure when it is asked to
figures   what is measured, and how much worse it may be
verdict   ratios, their spread, and whether they are worse than the noise of the same run
"""
