"""Known answers for defenses: what a defense claims, tried on numbers whose right outcome is known.

The tests know no defense by name. They are chosen by what a defense declares: the kind of payload that it makes, its
parameters and what it claims in numbers.
"""
