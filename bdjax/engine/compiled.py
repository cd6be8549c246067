"""Compiled programs are kept between processes, in the user's own cache."""

import jax

from bdjax.paths import home


def keep() -> None:
    """Keep compiled programs: they are code, so they lie where nobody else may write.

    Nothing changes where JAX has a cache already (JAX_COMPILATION_CACHE_DIR, or by jax.config), or is told to keep none
    (JAX_ENABLE_COMPILATION_CACHE=0).

    Raises:
        InvalidInput: as of `paths.home`.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    path = home() / "compiled"
    path.mkdir(mode=0o700, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
