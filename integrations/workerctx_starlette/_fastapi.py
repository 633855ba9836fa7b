"""What FastAPI looks for in a signature. Without FastAPI nobody looks, and anything will do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    class Dependency:
        """Tells FastAPI to fill a parameter with what `dependency` returns."""

        def __init__(self, dependency: Callable[..., Any]) -> None: ...

else:
    try:
        from fastapi.params import Depends as Dependency
    except ImportError:

        class Dependency:
            """Stands where FastAPI's would."""

            def __init__(self, dependency: object) -> None:
                self.dependency = dependency
