"""Applied to the adopted database: a new column, a renamed column and a new table."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_projects_and_tasks")]

    operations = [
        migrations.RenameField("Task", "title", "summary"),
        migrations.AddField("Task", "priority", models.IntegerField(default=0)),
        migrations.CreateModel(
            name="Comment",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("body", models.TextField()),
                (
                    "task",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="comments", to="shop.task"
                    ),
                ),
            ],
            options={"db_table": "comments"},
        ),
    ]
