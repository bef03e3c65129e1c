"""What happened, from a crash with tags: the answer of `tagalong explain`.

readers -> Crash -> analysis -> Explanation -> text, JSON, pages

crash          the one model of a crash: each field is known, or None
explanation    the answer: neighbourhood, hypotheses with probabilities, evidence; its JSON
"""
