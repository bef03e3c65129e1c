"""tagalong carries an Arm MTE guest's allocation tags along with its memory."""

__version__ = "0.1.0"
