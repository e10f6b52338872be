with songs as (
    select
        play.play_start_date as play_date,
        play.song_name,
        play.song_artist,
        count(distinct play.user_id) as uniq_users
    from audio_mart.mart_song_play as play
    where play.song_name is not null or play.song_artist is not null
    group by play.play_start_date, play.song_name, play.song_artist
),
ranked as (
    select
        songs.*,
        row_number() over (partition by play_date order by uniq_users desc, song_artist, song_name) as place
    from songs
)
select play_date, song_name, song_artist, uniq_users
from ranked
where place <= 10
