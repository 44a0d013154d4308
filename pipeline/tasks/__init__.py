"""The tasks by name. A new task is one file with a `TASK` and one entry here."""

from __future__ import annotations

from pipeline.core.names import nearest
from pipeline.tasks import depth, disparity, edge, human_parts, normals, sal, semseg
from pipeline.tasks.spec import Task, TaskContext

__all__ = ["TASKS", "Task", "TaskContext", "get_task"]

TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK for module in (semseg, human_parts, sal, depth, disparity, normals, edge)
}


def get_task(name: str) -> Task:
    """The task of that name. Raises ValueError, with the nearest name, for an unknown one."""
    if name not in TASKS:
        near = nearest(name, TASKS)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"unknown task {name!r}: choose from {', '.join(TASKS)}{hint}")
    return TASKS[name]
