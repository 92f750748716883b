"""Neighbours, metrics, protocols and reports."""
