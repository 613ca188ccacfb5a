"""The application's tables. No model mentions org_id."""

import uuid

from django.db import models


class Project(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    owner_id = models.UUIDField()
    name = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "projects"


class Task(models.Model):
    project = models.ForeignKey(Project, models.CASCADE, related_name="tasks")
    number = models.IntegerField()
    # Called "title" before migration 0002.
    summary = models.TextField()
    priority = models.IntegerField(default=0)

    class Meta:
        db_table = "tasks"
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="tasks_project_number")]


class Comment(models.Model):
    task = models.ForeignKey(Task, models.CASCADE, related_name="comments")
    body = models.TextField()

    class Meta:
        db_table = "comments"
