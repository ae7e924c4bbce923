-- Questions about readings of air quality, asked of Forebay (of JSON objects and of Parquet
-- files) and of DuckDB. {t} is the table. A line that begins with "-- " is a question's name.

-- how many, and of whom
SELECT count(*), count(DISTINCT device), count(ozone), count(wind_dir) FROM {t}

-- the span of time
SELECT min(from_iso8601_timestamp(timestamp)), max(from_iso8601_timestamp(timestamp)) FROM {t}

-- moments of a distribution
SELECT avg(ozone), stddev(ozone), min(ozone), max(ozone), sum(particulate_matter) FROM {t}

-- means by device
SELECT device, count(*), avg(ozone), avg(temperature), max(wind_speed) FROM {t} GROUP BY device ORDER BY device

-- nulls by device
SELECT device, count_if(ozone IS NULL), count(*) - count(particulate_matter) FROM {t} GROUP BY device ORDER BY device

-- by hour of the day
SELECT hour(from_iso8601_timestamp(timestamp)) AS h, avg(ozone), count(*) FROM {t} GROUP BY 1 ORDER BY 1

-- by day of the week
SELECT day_of_week(from_iso8601_timestamp(timestamp)) AS d, avg(nitrogen_dioxide) FROM {t} GROUP BY 1 ORDER BY 1

-- by month, only where there is much of it
SELECT date_trunc('month', from_iso8601_timestamp(timestamp)) AS m, count(*) AS c, avg(pm10) FROM {t} GROUP BY 1 HAVING count(*) > 100 ORDER BY 1

-- months as text
SELECT date_format(from_iso8601_timestamp(timestamp), '%Y-%m') AS m, max(temperature) FROM {t} GROUP BY 1 ORDER BY 1

-- percentiles
SELECT device, percentile_cont(0.5) WITHIN GROUP (ORDER BY ozone), median(temperature) FROM {t} WHERE ozone IS NOT NULL GROUP BY device ORDER BY device

-- a pivot
SELECT device, avg(ozone) FILTER (WHERE wind_dir = 'N') AS n, avg(ozone) FILTER (WHERE wind_dir = 'S') AS s, count(*) FILTER (WHERE wind_dir IS NULL) AS none FROM {t} GROUP BY device ORDER BY device

-- the worst hour of each device
SELECT device, max_by(timestamp, particulate_matter * 1000000 + ozone) FROM {t} WHERE ozone IS NOT NULL GROUP BY device ORDER BY device

-- the three highest of each device
SELECT device, timestamp, ozone FROM (SELECT device, timestamp, ozone, row_number() OVER (PARTITION BY device ORDER BY ozone DESC, timestamp) AS place FROM {t} WHERE ozone IS NOT NULL) WHERE place <= 3 ORDER BY device, ozone DESC, timestamp

-- the same, qualified
SELECT device, timestamp FROM {t} WHERE temperature IS NOT NULL QUALIFY row_number() OVER (PARTITION BY device ORDER BY temperature, timestamp) = 1 ORDER BY device

-- a moving mean
SELECT device, timestamp, avg(ozone) OVER (PARTITION BY device ORDER BY timestamp ROWS BETWEEN 23 PRECEDING AND CURRENT ROW) AS daily FROM {t} ORDER BY device, timestamp LIMIT 500

-- changes from hour to hour
SELECT max(step), min(step), count(step) FROM (SELECT temperature - lag(temperature) OVER (PARTITION BY device ORDER BY timestamp) AS step FROM {t})

-- running totals of rain
SELECT device, max(total) FROM (SELECT device, sum(rain) OVER (PARTITION BY device ORDER BY timestamp) AS total FROM {t}) GROUP BY device ORDER BY device

-- ranks of devices
SELECT device, rank() OVER (ORDER BY mean DESC) AS place FROM (SELECT device, avg(particulate_matter) AS mean FROM {t} GROUP BY device) ORDER BY place

-- joined with means of its own
WITH means AS (SELECT device, avg(ozone) AS mean FROM {t} GROUP BY device) SELECT r.device, count(*) FROM {t} r JOIN means m ON m.device = r.device WHERE r.ozone > 1.4 * m.mean GROUP BY r.device ORDER BY r.device

-- two devices at the same hour
SELECT a.device, b.device AS other, count(*), corr(a.ozone, b.ozone) FROM {t} a JOIN {t} b ON a.timestamp = b.timestamp AND a.device < b.device GROUP BY a.device, b.device ORDER BY 1, 2

-- joined with a list
SELECT v.side, count(*) FROM {t} r LEFT JOIN (VALUES ('N', 'north'), ('NNE', 'north'), ('S', 'south')) AS v(dir, side) ON r.wind_dir = v.dir GROUP BY v.side ORDER BY v.side NULLS FIRST

-- rows that have no match
SELECT count(*) FROM {t} r WHERE NOT EXISTS (SELECT 1 FROM {t} o WHERE o.timestamp = r.timestamp AND o.ozone > r.ozone)

-- a sub-query for a value
SELECT count(*) FROM {t} WHERE particulate_matter > (SELECT avg(particulate_matter) * 3 FROM {t})

-- classes of air
SELECT CASE WHEN particulate_matter < 35 THEN 'good' WHEN particulate_matter < 75 THEN 'fair' WHEN particulate_matter IS NULL THEN 'unknown' ELSE 'poor' END AS class, count(*) FROM {t} GROUP BY 1 ORDER BY 2 DESC, 1

-- texts
SELECT DISTINCT upper(substr(device, 1, 3)) AS short, length(device) AS letters, replace(device, 'a', '_') AS masked FROM {t} ORDER BY 3

-- patterns
SELECT device, count(*) FROM {t} WHERE device LIKE '%n' OR regexp_like(device, '^[A-D].*g') GROUP BY device ORDER BY device

-- one above the other
SELECT 'hot' AS kind, count(*) AS c FROM {t} WHERE temperature > 25 UNION ALL SELECT 'cold', count(*) FROM {t} WHERE temperature < 0 UNION ALL SELECT 'calm', count(*) FROM {t} WHERE wind_speed = 0 ORDER BY kind

-- what is in one and not in the other
SELECT wind_dir FROM {t} WHERE wind_dir IS NOT NULL EXCEPT SELECT wind_dir FROM {t} WHERE wind_dir LIKE '%N%' ORDER BY wind_dir

-- totals and sub-totals
SELECT device, wind_dir, count(*) FROM {t} WHERE wind_dir IN ('N', 'S') GROUP BY ROLLUP (device, wind_dir) ORDER BY device NULLS LAST, wind_dir NULLS LAST

-- whole numbers
SELECT sum(CAST(round(temperature) AS bigint)), sum(CAST(floor(pressure) AS bigint) % 7), min(CAST(round(dew_point) AS bigint) % 3) FROM {t}

-- spans of time
SELECT device, date_diff('hour', min(from_iso8601_timestamp(timestamp)), max(from_iso8601_timestamp(timestamp))) AS hours FROM {t} GROUP BY device ORDER BY device

-- lists
SELECT device, array_join(array_agg(DISTINCT wind_dir ORDER BY wind_dir), '-') FROM {t} WHERE wind_dir IS NOT NULL GROUP BY device ORDER BY device

-- choices between nulls
SELECT sum(coalesce(ozone, nitrogen_dioxide, 0)), count(nullif(rain, 0)), avg(if(rain > 0, ozone, NULL)) FROM {t}

-- a page of it
SELECT device, timestamp, pressure FROM {t} WHERE pressure BETWEEN 990 AND 1030 ORDER BY pressure DESC, device, timestamp OFFSET 20 LIMIT 30
