"""Shipoff: a platform-as-a-service for one small machine or a Kubernetes cluster."""
