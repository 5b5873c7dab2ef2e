"""Mentee: small image networks trained from scratch, taught offline by a large pretrained one."""
