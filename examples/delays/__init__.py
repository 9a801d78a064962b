"""Arrival delays, predicted: a pipeline of four stages, two models by turns, and a branch that explains."""
