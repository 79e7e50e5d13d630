"""The server that organizations reach: SuperLink, TLS gateway, certificates, nodes."""
