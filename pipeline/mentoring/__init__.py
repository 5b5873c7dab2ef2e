"""The method: what a student learns from its teacher, as functions of tensors.

After Venkatesan and Li, "Diving deeper into mentee networks", 2016 (arXiv:1604.08220).
"""
