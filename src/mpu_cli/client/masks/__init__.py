"""Masks on a client's update that cancel in the sum of a group's updates."""
