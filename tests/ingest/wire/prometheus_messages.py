"""`prometheus.WriteRequest` as the official protobuf library encodes it, from a description of remote write 1.0's messages."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_D = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    "uint64": _D.TYPE_UINT64,
    "double": _D.TYPE_DOUBLE,
    "sint32": _D.TYPE_SINT32,
    "uint32": _D.TYPE_UINT32,
    "sint64": _D.TYPE_SINT64,
    "int64": _D.TYPE_INT64,
    "int32": _D.TYPE_INT32,
    "string": _D.TYPE_STRING,
}
_MESSAGES: dict[str, list[str]] = {
    "Label": ["1 string name", "2 string value"],
    "Sample": ["1 double value", "2 int64 timestamp"],
    "Exemplar": ["1 *Label labels", "2 double value", "3 int64 timestamp"],
    "BucketSpan": ["1 sint32 offset", "2 uint32 length"],
    "Histogram": [
        "1 ?uint64 count_int", "2 ?double count_float", "3 double sum", "4 sint32 schema", "5 double zero_threshold",
        "6 ?uint64 zero_count_int", "7 ?double zero_count_float", "8 *BucketSpan negative_spans", "9 *sint64 negative_deltas",
        "10 *double negative_counts", "11 *BucketSpan positive_spans", "12 *sint64 positive_deltas", "13 *double positive_counts",
        "14 int32 reset_hint", "15 int64 timestamp", "16 *double custom_values",
    ],
    "TimeSeries": ["1 *Label labels", "2 *Sample samples", "3 *Exemplar exemplars", "4 *Histogram histograms"],
    "MetricMetadata": ["1 int32 type", "2 string metric_family_name", "4 string help", "5 string unit"],
    "WriteRequest": ["1 *TimeSeries timeseries", "3 *MetricMetadata metadata"],
}  # fmt: skip


def _factory() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="remote_write_for_tests.proto", package="prometheus_for_tests", syntax="proto3"
    )
    for name, lines in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for line in lines:
            number, kind, field = line.split()
            made = message.field.add(
                name=field, number=int(number), label=_D.LABEL_REPEATED if kind[0] == "*" else _D.LABEL_OPTIONAL
            )
            if kind[0] == "?":
                made.proto3_optional, made.oneof_index = True, len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field}")
            plain = kind.lstrip("*?")
            if plain in _KINDS:
                made.type = _KINDS[plain]
            else:
                made.type, made.type_name = _D.TYPE_MESSAGE, f".prometheus_for_tests.{plain}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call]  # protobuf has no types of its own
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("prometheus_for_tests.WriteRequest"))


WriteRequest: Any = _factory()


def write_request(*series: dict[str, Any], metadata: list[dict[str, Any]] | None = None) -> bytes:
    """A request of series given as {"labels": {...}, "samples": [(value, ms), ...], "exemplars": [...], "histograms": [...]}."""
    request = WriteRequest(metadata=metadata or [])
    for each in series:
        made = request.timeseries.add(exemplars=each.get("exemplars", []), histograms=each.get("histograms", []))
        for name, value in each["labels"].items() if isinstance(each["labels"], dict) else each["labels"]:
            made.labels.add(name=name, value=value)
        for value, timestamp in each.get("samples", []):
            made.samples.add(value=value, timestamp=timestamp)
    encoded: bytes = request.SerializeToString()
    return encoded
