"""The server that organizations connect to: SuperLink, TLS gateway, certificates, nodes."""
