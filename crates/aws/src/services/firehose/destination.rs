//! An S3 destination as callers write it, read as settings of the delivery room. Every member
//! does what AWS documents, or is refused by name.

use std::collections::BTreeMap;

use delivery::{
    Backup, Column, Compression, Conversion, Deaggregation, NewStream, Partitioning, Schemas,
    StreamRow,
};
use lake::Catalog;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::fault::Fault;
use crate::rooms::Rooms;

const MIB: u64 = 1024 * 1024;

/// How compression is called on the wire.
const COMPRESSIONS: [(&str, Compression); 5] = [
    ("UNCOMPRESSED", Compression::None),
    ("GZIP", Compression::Gzip),
    ("ZIP", Compression::Zip),
    ("Snappy", Compression::Snappy),
    ("HADOOP_SNAPPY", Compression::HadoopSnappy),
];

/// The S3 destination, extended or not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Destination {
    #[serde(rename = "RoleARN")]
    role_arn: String,
    #[serde(rename = "BucketARN")]
    bucket_arn: String,
    #[serde(default)]
    prefix: String,
    error_output_prefix: Option<String>,
    buffering_hints: Option<Hints>,
    compression_format: Option<String>,
    encryption_configuration: Option<Encryption>,
    #[serde(rename = "CloudWatchLoggingOptions")]
    _logging: Option<Logging>,
    processing_configuration: Option<Processing>,
    s3_backup_mode: Option<String>,
    s3_backup_configuration: Option<BackupDestination>,
    dynamic_partitioning_configuration: Option<DynamicPartitioning>,
    data_format_conversion_configuration: Option<FormatConversion>,
    file_extension: Option<String>,
    custom_time_zone: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct BackupDestination {
    #[serde(rename = "RoleARN")]
    role_arn: String,
    #[serde(rename = "BucketARN")]
    bucket_arn: String,
    #[serde(default)]
    prefix: String,
    /// Nothing fails between the log and a backup.
    #[serde(rename = "ErrorOutputPrefix")]
    _error_output_prefix: Option<String>,
    buffering_hints: Option<Hints>,
    compression_format: Option<String>,
    encryption_configuration: Option<Encryption>,
    #[serde(rename = "CloudWatchLoggingOptions")]
    _logging: Option<Logging>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hints {
    #[serde(rename = "SizeInMBs")]
    size: Option<u64>,
    #[serde(rename = "IntervalInSeconds")]
    interval: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Encryption {
    no_encryption_config: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Logging {
    #[serde(rename = "Enabled")]
    _enabled: Option<bool>,
    #[serde(rename = "LogGroupName")]
    _group: Option<String>,
    #[serde(rename = "LogStreamName")]
    _stream: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct DynamicPartitioning {
    enabled: Option<bool>,
    retry_options: Option<RetryOptions>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct RetryOptions {
    duration_in_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct FormatConversion {
    enabled: Option<bool>,
    schema_configuration: Option<SchemaConfiguration>,
    input_format_configuration: Option<InputFormat>,
    output_format_configuration: Option<OutputFormat>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct SchemaConfiguration {
    #[serde(rename = "RoleARN")]
    _role_arn: Option<String>,
    catalog_id: Option<String>,
    database_name: Option<String>,
    table_name: Option<String>,
    /// One catalog serves every region here.
    #[serde(rename = "Region")]
    _region: Option<String>,
    version_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct InputFormat {
    deserializer: Option<Deserializer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deserializer {
    #[serde(rename = "OpenXJsonSerDe")]
    open_x: Option<OpenX>,
    #[serde(rename = "HiveJsonSerDe")]
    hive: Option<Hive>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OpenX {
    convert_dots_in_json_keys_to_underscores: Option<bool>,
    case_insensitive: Option<bool>,
    #[serde(default)]
    column_to_json_key_mappings: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Hive {
    #[serde(default)]
    timestamp_formats: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OutputFormat {
    serializer: Option<Serializer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Serializer {
    #[serde(rename = "ParquetSerDe")]
    parquet: Option<Parquet>,
    #[serde(rename = "OrcSerDe")]
    orc: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Parquet {
    compression: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Processing {
    enabled: Option<bool>,
    #[serde(default)]
    processors: Vec<Processor>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Processor {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(default)]
    parameters: Vec<Parameter>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Parameter {
    parameter_name: String,
    parameter_value: String,
}

/// Reads a destination as settings of the delivery room.
pub(super) fn settings(
    name: &str,
    given: &Map<String, Value>,
    account_id: &str,
) -> Result<NewStream, Fault> {
    let read = serde_path_to_error::deserialize(Value::Object(given.clone()));
    let given: Destination = read.map_err(|error| {
        let place = error.path().to_string();
        Fault::input(&place, &error.into_inner().to_string())
    })?;
    let processing = processing(given.processing_configuration)?;
    let partitioned = match given.dynamic_partitioning_configuration {
        None => false,
        Some(DynamicPartitioning { enabled, retry_options }) => {
            let secs = retry_options.and_then(|options| options.duration_in_seconds);
            if let Some(secs @ 7201..) = secs {
                let message = format!("DurationInSeconds {secs} is not between 0 and 7200");
                return Err(Fault::invalid(message));
            }
            enabled == Some(true)
        }
    };
    let partitioning = match (partitioned, processing.query) {
        (false, None) => None,
        (true, Some(query)) => Some(Partitioning { query }),
        (true, None) => {
            return Err(Fault::invalid(
                "DynamicPartitioningConfiguration: a processor of type MetadataExtraction must \
                 say the partition keys",
            ));
        }
        (false, Some(_)) => {
            return Err(Fault::invalid(
                "ProcessingConfiguration: MetadataExtraction needs \
                 DynamicPartitioningConfiguration to be enabled",
            ));
        }
    };
    let conversion = match given.data_format_conversion_configuration {
        Some(conversion) if conversion.enabled != Some(false) => {
            Some(read_conversion(conversion, account_id)?)
        }
        _ => None,
    };
    // AWS's own defaults: more where a batch becomes many objects, or columns.
    let default_size = if partitioning.is_some() || conversion.is_some() { 128 } else { 5 };
    let (mut size, mut interval) = read_hints(given.buffering_hints, (default_size, 300))?;
    let mut backup = None;
    match (given.s3_backup_mode.as_deref(), given.s3_backup_configuration) {
        (None | Some("Disabled"), _) => {}
        (Some("Enabled"), Some(given)) => {
            let hints = read_hints(given.buffering_hints, (size, interval))?;
            (size, interval) = (size.min(hints.0), interval.min(hints.1));
            check_role(&given.role_arn)?;
            check_encryption(given.encryption_configuration)?;
            backup = Some(Backup {
                bucket: bucket_of(&given.bucket_arn)?,
                prefix: given.prefix,
                compression: read_compression(given.compression_format.as_deref())?,
            });
        }
        (Some("Enabled"), None) => {
            return Err(Fault::invalid("S3BackupMode Enabled needs S3BackupConfiguration"));
        }
        (Some(other), _) => {
            let message = format!("S3BackupMode {other:?} must be Enabled or Disabled");
            return Err(Fault::invalid(message));
        }
    }
    check_role(&given.role_arn)?;
    check_encryption(given.encryption_configuration)?;
    Ok(NewStream {
        prefix: given.prefix,
        error_prefix: given.error_output_prefix.filter(|prefix| !prefix.is_empty()),
        size_bytes: size.saturating_mul(MIB),
        interval_secs: interval,
        compression: read_compression(given.compression_format.as_deref())?,
        delimiter: processing.delimiter,
        file_extension: given.file_extension.filter(|extension| !extension.is_empty()),
        time_zone: given.custom_time_zone.filter(|zone| !zone.is_empty()),
        deaggregation: processing.deaggregation,
        partitioning,
        conversion,
        backup,
        ..NewStream::new(name, bucket_of(&given.bucket_arn)?)
    })
}

fn check_role(role: &str) -> Result<(), Fault> {
    if role.starts_with("arn:") {
        return Ok(());
    }
    Err(Fault::invalid(format!("RoleARN {role:?} is not an ARN")))
}

fn bucket_of(arn: &str) -> Result<String, Fault> {
    arn.strip_prefix("arn:aws:s3:::")
        .map(str::to_owned)
        .ok_or_else(|| Fault::invalid(format!("BucketARN {arn:?} is not arn:aws:s3:::BUCKET")))
}

/// MiB and seconds.
fn read_hints(given: Option<Hints>, default: (u64, u64)) -> Result<(u64, u64), Fault> {
    match given {
        None | Some(Hints { size: None, interval: None }) => Ok(default),
        Some(Hints { size: Some(size), interval: Some(interval) }) => Ok((size, interval)),
        Some(_) => Err(Fault::invalid(
            "BufferingHints: give both SizeInMBs and IntervalInSeconds, or neither",
        )),
    }
}

fn read_compression(given: Option<&str>) -> Result<Compression, Fault> {
    let given = given.unwrap_or("UNCOMPRESSED");
    let known = COMPRESSIONS.iter().find(|(name, _)| *name == given);
    known.map(|(_, compression)| *compression).ok_or_else(|| {
        let names = COMPRESSIONS.map(|(name, _)| name).join(", ");
        Fault::invalid(format!("CompressionFormat {given:?} must be one of {names}"))
    })
}

fn check_encryption(given: Option<Encryption>) -> Result<(), Fault> {
    match given {
        Some(Encryption { no_encryption_config: Some(other) }) if other != "NoEncryption" => {
            Err(Fault::invalid(format!("NoEncryptionConfig {other:?} must be NoEncryption")))
        }
        _ => Ok(()),
    }
}

fn read_conversion(given: FormatConversion, account_id: &str) -> Result<Conversion, Fault> {
    let missing =
        |what: &str| Fault::invalid(format!("DataFormatConversionConfiguration needs {what}"));
    let schema = given.schema_configuration.ok_or_else(|| missing("SchemaConfiguration"))?;
    if let Some(other) = schema.catalog_id.filter(|id| id != account_id) {
        let why = format!("{other:?} is another account's catalog; leave it out");
        return Err(Fault::unsupported("CatalogId", &why));
    }
    let input = given.input_format_configuration.and_then(|input| input.deserializer);
    let input = input.ok_or_else(|| missing("InputFormatConfiguration with a Deserializer"))?;
    let open_x = match (input.open_x, input.hive) {
        (Some(open_x), None) => open_x,
        (None, Some(hive)) if hive.timestamp_formats.is_empty() => OpenX::default(),
        (None, Some(_)) => {
            let why = "timestamps are read as ISO 8601; leave the list empty";
            return Err(Fault::unsupported("TimestampFormats", why));
        }
        _ => return Err(missing("one of OpenXJsonSerDe and HiveJsonSerDe")),
    };
    if open_x.convert_dots_in_json_keys_to_underscores == Some(true) {
        let why = "map the columns with ColumnToJsonKeyMappings";
        return Err(Fault::unsupported("ConvertDotsInJsonKeysToUnderscores", why));
    }
    let output = given.output_format_configuration.and_then(|output| output.serializer);
    let output = output.ok_or_else(|| missing("OutputFormatConfiguration with a Serializer"))?;
    if output.orc.is_some() {
        return Err(Fault::unsupported("OrcSerDe", "use ParquetSerDe"));
    }
    let parquet = output.parquet.ok_or_else(|| missing("a ParquetSerDe"))?;
    let snappy = match parquet.compression.as_deref() {
        None | Some("SNAPPY") => true,
        Some("UNCOMPRESSED") => false,
        Some(other) => {
            let why = format!("{other:?}; use SNAPPY or UNCOMPRESSED");
            return Err(Fault::unsupported("Compression of ParquetSerDe", &why));
        }
    };
    let version = match schema.version_id.as_deref() {
        None | Some("LATEST") => None,
        Some(number) => Some(number.parse().map_err(|_not_a_number| {
            Fault::invalid(format!("VersionId {number:?} is neither LATEST nor a number"))
        })?),
    };
    Ok(Conversion {
        database: schema.database_name.ok_or_else(|| missing("a DatabaseName"))?,
        table: schema.table_name.ok_or_else(|| missing("a TableName"))?,
        version,
        snappy,
        ignore_case: open_x.case_insensitive != Some(false),
        keys: open_x.column_to_json_key_mappings,
    })
}

/// What the processors do.
#[derive(Default)]
struct Processed {
    delimiter: Option<String>,
    deaggregation: Option<Deaggregation>,
    query: Option<String>,
}

fn processing(given: Option<Processing>) -> Result<Processed, Fault> {
    let mut does = Processed::default();
    let Some(Processing { enabled, processors }) = given else { return Ok(does) };
    for Processor { kind, parameters } in processors {
        let mut given: BTreeMap<String, String> = parameters
            .into_iter()
            .map(|parameter| (parameter.parameter_name, parameter.parameter_value))
            .collect();
        let mut take = |name: &str| given.remove(name);
        match kind.as_str() {
            "AppendDelimiterToRecord" => {
                let text = take("Delimiter").unwrap_or("\n".to_owned());
                // Clients write the line's end as the two characters backslash and n.
                does.delimiter = Some(text.replace("\\n", "\n"));
            }
            "MetadataExtraction" => {
                let engine = take("JsonParsingEngine");
                if let Some(other) = engine.filter(|engine| engine != "JQ-1.6") {
                    return Err(Fault::unsupported(
                        "JsonParsingEngine",
                        &format!("{other:?}; use JQ-1.6"),
                    ));
                }
                does.query = Some(take("MetadataExtractionQuery").ok_or_else(|| {
                    Fault::invalid("MetadataExtraction needs MetadataExtractionQuery")
                })?);
            }
            "RecordDeAggregation" => {
                does.deaggregation = Some(match take("SubRecordType").as_deref() {
                    Some("JSON") => Deaggregation::Json,
                    Some("DELIMITED") => {
                        let text = take("Delimiter").unwrap_or_default();
                        Deaggregation::Delimited(delimiter_of(&text)?)
                    }
                    other => {
                        let message = format!(
                            "SubRecordType {:?} must be JSON or DELIMITED",
                            other.unwrap_or_default()
                        );
                        return Err(Fault::invalid(message));
                    }
                });
            }
            _ => {
                let why = format!(
                    "processor {kind:?}; AppendDelimiterToRecord, MetadataExtraction and \
                     RecordDeAggregation are run"
                );
                return Err(Fault::unsupported("ProcessingConfiguration", &why));
            }
        }
        if let Some((name, _)) = given.pop_first() {
            return Err(Fault::unsupported("ParameterName", &format!("{name:?} of {kind}")));
        }
    }
    Ok(if enabled == Some(true) { does } else { Processed::default() })
}

/// What stands between records, which callers say in base64.
fn delimiter_of(text: &str) -> Result<String, Fault> {
    let bytes = rules::base64::decode(text).and_then(|bytes| String::from_utf8(bytes).ok());
    bytes.filter(|text| !text.is_empty()).ok_or_else(|| {
        Fault::invalid(format!("Delimiter {text:?} must be text, encoded in base64"))
    })
}

/// A destination of a stream that was made without us: by the command line, which says less
/// than the wire can.
pub(super) fn destination_of(rooms: &Rooms, row: &StreamRow) -> Map<String, Value> {
    let row = &row.settings;
    let compression = COMPRESSIONS.iter().find(|(_, known)| *known == row.compression);
    let mut given = json!({
        "RoleARN": format!("arn:aws:iam::{}:role/forebay", rooms.settings.account_id),
        "BucketARN": format!("arn:aws:s3:::{}", row.bucket),
        "Prefix": row.prefix,
        "BufferingHints": {
            "SizeInMBs": row.size_bytes.div_ceil(MIB),
            "IntervalInSeconds": row.interval_secs,
        },
        "CompressionFormat": compression.map_or("UNCOMPRESSED", |(name, _)| name),
    });
    if let Some(prefix) = &row.error_prefix {
        given["ErrorOutputPrefix"] = json!(prefix);
    }
    if let Some(extension) = &row.file_extension {
        given["FileExtension"] = json!(extension);
    }
    if let Some(delimiter) = &row.delimiter {
        let value = delimiter.replace('\n', "\\n");
        given["ProcessingConfiguration"] = json!({"Enabled": true, "Processors": [{
            "Type": "AppendDelimiterToRecord",
            "Parameters": [{"ParameterName": "Delimiter", "ParameterValue": value}],
        }]});
    }
    match given {
        Value::Object(given) => given,
        _ => Map::new(),
    }
}

/// The catalog, as delivery asks it for columns.
#[derive(Debug)]
pub struct CatalogSchemas(pub Catalog);

impl Schemas for CatalogSchemas {
    fn columns(
        &self,
        database: &str,
        table: &str,
        version: Option<u64>,
    ) -> base::Result<Vec<Column>> {
        let found = match version {
            None => self.0.get_table(database, table)?,
            Some(version) => {
                let mut versions = self.0.table_versions(database, table)?.into_iter();
                versions.find(|found| found.version == version).ok_or_else(|| {
                    base::Error::not_found(format!(
                        "table {database}.{table} has no version {version}"
                    ))
                })?
            }
        };
        let column =
            |column: lake::Column| Column { name: column.name, hive_type: column.hive_type };
        Ok(found.columns.into_iter().map(column).collect())
    }
}
