"""The peers' side: what a person writes without Convoy. Small scripts, each a process of its own."""
