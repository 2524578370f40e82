"""The REST routes, a module for each kind of object. Each translates; access.py decides who may."""
