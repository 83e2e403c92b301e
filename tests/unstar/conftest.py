from unstar_fakes import world

__all__ = ["world"]
